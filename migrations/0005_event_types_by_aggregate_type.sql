-- Counts by everything that a client's visibility can name: each client is told its own.
create table event_types_new (
    source         text   not null,
    type           text   not null,
    aggregate_type text   not null,
    count          bigint not null,
    mismatch_count bigint not null,
    first_seen_at  bigint not null,
    last_seen_at   bigint not null,
    constraint event_types_new_pk primary key (source, type, aggregate_type)
);
-- Which aggregate types the data that did not fit was of is not known: it is counted under the first.
insert into event_types_new (source, type, aggregate_type, count, mismatch_count, first_seen_at, last_seen_at)
select c.source, c.type, c.aggregate_type, c.count, case when c.aggregate_type = f.aggregate_type then t.mismatch_count else 0 end,
       c.first_seen_at, c.last_seen_at
from (select source, type, aggregate_type, count(*) as count, min(recorded_at) as first_seen_at, max(recorded_at) as last_seen_at
      from entries group by source, type, aggregate_type) c
join (select source, type, min(aggregate_type) as aggregate_type from entries group by source, type) f
  on f.source = c.source and f.type = c.type
join event_types t on t.source = c.source and t.type = c.type;
drop table event_types;
alter table event_types_new rename to event_types;
