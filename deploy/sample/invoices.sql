-- A sample event store: invoices, in a table of its own making on MariaDB.
create table tb_invoice_event (
    seq bigint auto_increment primary key,
    event_id char(36) not null unique,
    event_type varchar(100) not null,
    invoice_id varchar(100) not null,
    version int not null,
    occurred_at datetime(6) not null,
    payload json not null,
    unique (invoice_id, version)
);

delimiter //
-- An invoice that is sent and paid, in one transaction.
create procedure invoice_once()
begin
    declare invoice varchar(100) default concat('invoice-', uuid_short());
    start transaction;
    insert into tb_invoice_event (event_id, event_type, invoice_id, version, occurred_at, payload)
        values (uuid(), 'InvoiceSent', invoice, 0, utc_timestamp(6), json_object('invoiceId', invoice, 'total', '19.90'));
    insert into tb_invoice_event (event_id, event_type, invoice_id, version, occurred_at, payload)
        values (uuid(), 'InvoicePaid', invoice, 1, utc_timestamp(6), json_object('invoiceId', invoice));
    commit;
end //
delimiter ;
