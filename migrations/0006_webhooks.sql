-- When the receiver at the present URL agreed, and how many calls a minute it allows.
alter table webhooks add column consented_at bigint;
alter table webhooks add column allowed_rate bigint;
-- SHA-256 of the key in the callback address that was given to the receiver.
alter table webhooks add column callback_hash text;
-- What a registration was asked for under, and SHA-256 of its body: the same request again answers the same.
alter table webhooks add column idempotency_key text;
alter table webhooks add column idempotency_hash text;
create unique index webhooks_by_idempotency_key on webhooks (owner, idempotency_key);
-- When the first of its present failures happened is `failing_since`; so many calls failed since.
alter table webhooks add column failures bigint not null default 0;

-- A second lane of one webhook: a stretch of the journal that it gets again. One at a time, the oldest first.
create table replays (
    webhook    text   not null,
    id         text   not null,
    -- `replay`: all matching events; `recover`: those that are dead; `resend`: the one event at `through`.
    kind       text   not null,
    -- Like the cursor of a webhook.
    cursor     bigint not null,
    through    bigint not null,
    -- Events that it is about, counted before it starts.
    total      bigint not null,
    created_at bigint not null,
    constraint replays_pk primary key (webhook, id),
    constraint replays_kind_is_known check (kind in ('replay', 'recover', 'resend'))
);

-- Exceptions of either lane. `replay` is empty in the first one.
create table exceptions (
    webhook         text   not null,
    replay          text   not null default '',
    position        bigint not null,
    -- What waits for it: an aggregate, all (empty) or, without order, nothing else.
    turn            text   not null,
    status          text   not null,
    event_id        text,
    type            text,
    attempts        bigint not null,
    next_attempt_at bigint,
    last_attempt_at bigint,
    last_status     bigint,
    last_error      text,
    -- With the format that they were made in, which an edit may change.
    body            bytea,
    format          text,
    -- Of a batch: its last position, its id, and how many events it holds; stored before its first attempt.
    through         bigint,
    batch           text,
    events          bigint,
    -- Of a turn that an edit of the ordering left over: its last position.
    until           bigint,
    -- What its owner asked for, until the dispatch has done it: `resend` or `discard`.
    wish            text,
    constraint exceptions_pk primary key (webhook, replay, position, turn),
    constraint exceptions_status_is_known check (status in ('failing', 'held', 'dead', 'discarded'))
);
insert into exceptions (webhook, position, turn, status, event_id, type, attempts, next_attempt_at, last_attempt_at,
    last_status, last_error, body)
    select webhook, position, key, status, event_id, type, attempts, next_attempt_at, last_attempt_at, last_status,
    last_error, body from deliveries;
drop table deliveries;
alter table exceptions rename to deliveries;
create unique index deliveries_one_row_per_turn on deliveries (webhook, replay, turn) where status in ('failing', 'held');
create index deliveries_by_position on deliveries (position);
create index deliveries_with_wishes on deliveries (webhook) where wish is not null;

-- The log, with attempts of replays beside those of the first lane.
create table calls (
    webhook     text   not null,
    position    bigint not null,
    attempt     bigint not null,
    started_at  bigint not null,
    duration_ms bigint not null,
    status      bigint,
    error       text,
    answer      text,
    replay      text   not null default '',
    constraint calls_pk primary key (webhook, position, replay, attempt)
);
insert into calls (webhook, position, attempt, started_at, duration_ms, status, error, answer)
    select webhook, position, attempt, started_at, duration_ms, status, error, answer from attempts;
drop table attempts;
alter table calls rename to attempts;
