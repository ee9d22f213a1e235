-- How many events of each type are journaled, and of how many the data did not fit its schema.
create table event_types (
    source         text   not null,
    type           text   not null,
    count          bigint not null,
    mismatch_count bigint not null,
    first_seen_at  bigint not null,
    last_seen_at   bigint not null,
    constraint event_types_pk primary key (source, type)
);
insert into event_types (source, type, count, mismatch_count, first_seen_at, last_seen_at)
select source, type, count(*), 0, min(recorded_at), max(recorded_at) from entries group by source, type;
