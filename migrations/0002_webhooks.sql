-- Dispatch is cursor, not queue: a webhook is a cursor into the journal plus rows for its exceptions.

create table webhooks (
    id              text   not null,
    owner           text   not null,
    -- Counts edits; the ETag. Progress and status do not change it.
    revision        bigint not null,
    url             text   not null,
    -- What the owner wrote beside URL and secret, as JSON.
    definition      text   not null,
    -- Sealed with the key of the configuration, bound to the id of this row.
    secrets         bytea  not null,
    status          text   not null,
    status_reason   text,
    -- Every matching event up to here is delivered, dead, or stands at or behind a failing row of its key.
    cursor          bigint not null,
    created_at      bigint not null,
    updated_at      bigint not null,
    -- First failure since the last success.
    failing_since   bigint,
    last_success_at bigint,
    constraint webhooks_pk primary key (id),
    constraint webhooks_status_is_known check (status in ('pending', 'active', 'paused', 'disabled', 'selection_invalid'))
);
create index webhooks_by_owner on webhooks (owner, id);

-- Exceptions only. `failing`: at most one row a key, its next position and, once tried, the bytes to repeat;
-- what stands behind it is read from the journal. `dead`: one row an event whose attempts are used up.
create table deliveries (
    webhook         text   not null,
    position        bigint not null,
    key             text   not null,
    status          text   not null,
    -- Unknown until the position was tried.
    event_id        text,
    type            text,
    attempts        bigint not null,
    next_attempt_at bigint,
    last_attempt_at bigint,
    last_status     bigint,
    last_error      text,
    body            bytea,
    constraint deliveries_pk primary key (webhook, position, key),
    constraint deliveries_status_is_known check (status in ('failing', 'dead', 'discarded'))
);
create unique index deliveries_one_failing_per_key on deliveries (webhook, key) where status = 'failing';

-- The log of calls: recent ones only, and no delivery depends on it.
create table attempts (
    webhook     text   not null,
    position    bigint not null,
    attempt     bigint not null,
    started_at  bigint not null,
    duration_ms bigint not null,
    status      bigint,
    error       text,
    answer      text,
    constraint attempts_pk primary key (webhook, position, attempt)
);
