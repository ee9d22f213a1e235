-- The database writes by itself; needs the server's event scheduler (`--event-scheduler=on`).
create event invoice_every_second on schedule every 1 second do call invoice_once();

-- What a source needs, and nothing more.
create user reader identified by 'reader';
grant select on invoices.tb_invoice_event to reader;
