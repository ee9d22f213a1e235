-- A sample event store: carts, as Axon Framework 4 stores their events on PostgreSQL.
create table domain_event_entry (
    global_index bigint generated always as identity primary key,
    event_identifier varchar(255) not null unique,
    type varchar(255),
    aggregate_identifier varchar(255) not null,
    sequence_number bigint not null,
    time_stamp varchar(255) not null,
    payload_type varchar(255) not null,
    payload_revision varchar(255),
    payload bytea not null,
    meta_data bytea,
    unique (aggregate_identifier, sequence_number)
);

create sequence cart_number;

-- A customer who puts one thing after the other into a cart and pays: three to six events in one transaction.
create procedure shop_once() language plpgsql as $$
declare
    cart text := 'cart-' || nextval('cart_number');
    things int := 1 + floor(random() * 4);
begin
    for version in 0 .. things + 1 loop
        insert into domain_event_entry (event_identifier, type, aggregate_identifier, sequence_number, time_stamp, payload_type, payload, meta_data)
        values (
            gen_random_uuid(), 'Cart', cart, version,
            to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            case version when 0 then 'CartOpened' when things + 1 then 'CheckedOut' else 'ItemAdded' end,
            convert_to(
                case version
                    when 0 then json_build_object('cartId', cart)
                    when things + 1 then json_build_object('cartId', cart, 'lines', things)
                    else json_build_object('cartId', cart, 'sku', 'sku-' || floor(random() * 100), 'quantity', 1 + floor(random() * 3))
                end::text,
                'UTF8'),
            convert_to(json_build_object('writer', 'sample')::text, 'UTF8'));
    end loop;
end $$;
