local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('EXISTS', KEYS[2])
if ARGV[6] == 'first' then
  local earlier = redis.call('GET', KEYS[3])
  if earlier and earlier ~= ARGV[1] then
    redis.call('ZREM', KEYS[1], earlier)
    redis.call('DEL', ARGV[4] .. earlier)
  end
  redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[7])
elseif redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[3], ARGV[7])
end
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[3])
end
redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[8])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
local nodes = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local record = redis.call('GET', ARGV[4] .. id)
  if record then
    nodes[#nodes + 1] = record
    nodes[#nodes + 1] = tonumber(redis.call('GET', ARGV[5] .. id) or '0')
  end
end
return {known, nodes}
