-- The PostgreSQL server of docker-compose.yml at its first start: the journal, a shop's event store, and one user for each.
create role postern login password 'postern';
create role reader login password 'reader';
create database journal owner postern;
create database shop;

\connect shop
\i /sample/carts.sql
grant select on domain_event_entry to reader;
