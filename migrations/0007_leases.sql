-- How the work under a lease is doing, as its holder says: shown by processes that do not do it.
alter table leases add column state text;
