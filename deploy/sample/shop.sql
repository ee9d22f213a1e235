-- Run by psql for as long as it lives: two customers a second.
call shop_once() \watch 0.5
