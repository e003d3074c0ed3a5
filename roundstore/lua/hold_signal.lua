-- Holds a signal for a peer that is between two streams.
--
-- KEYS[1]   held         list  signals for the peer, oldest first
-- ARGV[1]   signal
-- ARGV[2]   how many may be held
-- ARGV[3]   how long they are held, seconds
-- Returns
--   1  held
--   -5  there are too many already
local held = KEYS[1]
local signal, limit, ttl = unpack(ARGV)

if redis.call('LLEN', held) >= tonumber(limit) then
  return {-5}
end
redis.call('RPUSH', held, signal)
redis.call('EXPIRE', held, ttl)
return {1}
