-- The record of an erasure names the event and its type: whoever could see the event sees the record.
alter table entries add column erases text;
alter table entries add column erased_type text;

-- Counts erasures: whoever keeps copies of entries looks whether it moved.
alter table journal add column erasures bigint not null default 0;

-- Erasures that somebody asked for; once it is erased, until its bytes are overwritten and outside caches were told.
create table erasures (
    event_id     text    not null,
    requested_at bigint  not null,
    is_erased    boolean not null,
    constraint erasures_pk primary key (event_id)
);

-- The page that a position belongs to is found without looking through all pages before it.
create index pages_by_position on pages (epoch, last_position);
