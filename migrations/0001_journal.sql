-- One text for SQLite and PostgreSQL: times are bigint microseconds, JSON is kept as the text that came.

-- One row: the head. Appending locks it first, so positions are dense and in commit order.
create table journal (
    singleton   bigint not null,
    id          text   not null,
    created_at  bigint not null,
    position    bigint not null,
    recorded_at bigint not null,
    feed_time   bigint not null,
    -- The oldest position that is still readable; everything below was purged.
    oldest      bigint not null,
    constraint journal_pk primary key (singleton),
    constraint journal_is_one_row check (singleton = 1)
);

-- Earlier incarnations (restored backups, failed-over clusters): their cursors hold up to last_position.
create table incarnations (
    id            text   not null,
    last_position bigint not null,
    ended_at      bigint not null,
    constraint incarnations_pk primary key (id)
);

-- What all processes on this journal must agree on: public_url, authority, a check of the sealing key.
create table settings (
    name  text not null,
    value text not null,
    constraint settings_pk primary key (name)
);

create table entries (
    position          bigint  not null,
    event_id          text    not null,
    source            text    not null,
    type              text    not null,
    aggregate_type    text    not null,
    aggregate_id      text    not null,
    aggregate_version bigint,
    occurred_at       bigint  not null,
    recorded_at       bigint  not null,
    feed_time         bigint  not null,
    late              boolean not null,
    erased_at         bigint,
    summary           text    not null,
    -- Last, because the summaries of a feed are read without them.
    data              text,
    metadata          text,
    constraint entries_pk primary key (position)
);
create index entries_by_aggregate on entries (aggregate_type, aggregate_id, position);

-- What was ever taken. Outlives retention and erasure: what was forgotten or purged never comes back.
create table inbox (
    event_id text   not null,
    source   text   not null,
    -- Short hashes of (source, type, aggregate) and of the content: tell a repeat from a change or a conflict.
    identity bigint not null,
    content  bigint not null,
    position bigint not null,
    constraint inbox_pk primary key (event_id)
);

-- How far each source was read; written in the transaction that journals what was read.
create table sources (
    name        text   not null,
    checkpoint  text,
    journaled   bigint not null,
    withheld    bigint not null,
    duplicates  bigint not null,
    changed     bigint not null,
    quarantined bigint not null,
    updated_at  bigint not null,
    constraint sources_pk primary key (name)
);

-- Rows that could not become events, with the reason. Never dropped silently.
create table quarantine (
    id          text   not null,
    source      text   not null,
    event_id    text,
    sequence    text,
    reason      text   not null,
    detail      text   not null,
    received_at bigint not null,
    raw         text   not null,
    constraint quarantine_pk primary key (id)
);
create index quarantine_by_source on quarantine (source, id);

-- A feed as one kind of client sees it: its filter, their visibility, a page size.
create table views (
    epoch      text   not null,
    feed       text   not null,
    definition text   not null,
    created_at bigint not null,
    constraint views_pk primary key (epoch)
);

-- Where pages end. A page is sealed by the commit of its last entry; its row only records that.
create table pages (
    epoch         text   not null,
    n             bigint not null,
    last_position bigint not null,
    constraint pages_pk primary key (epoch, n)
);

-- Who may do work that only one process may do, and until when by the database's clock.
create table leases (
    name       text   not null,
    holder     text   not null,
    fence      bigint not null,
    expires_at bigint not null,
    constraint leases_pk primary key (name)
);
