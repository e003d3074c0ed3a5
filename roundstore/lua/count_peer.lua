-- Gives the next peer id.
--
-- KEYS[1]   peer ids     string  the newest id, a number
-- ARGV[1]   number that the id must be greater than, because it is known to have been given
-- Returns
--   1  then: the id
local peer_ids = KEYS[1]
local above = ARGV[1]

if tonumber(redis.call('GET', peer_ids) or '0') < tonumber(above) then
  redis.call('SET', peer_ids, above)
end
return {1, redis.call('INCR', peer_ids)}
