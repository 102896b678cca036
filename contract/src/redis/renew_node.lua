local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local info = redis.call('INFO', 'server')
local run = string.match(info, 'run_id:(%w+)')
if redis.call('GET', KEYS[4]) ~= run then
  local quiet = tonumber(ARGV[3])
  if redis.call('EXISTS', KEYS[1]) == 0 then
    quiet = quiet - 1000 * tonumber(string.match(info, 'uptime_in_seconds:(%d+)'))
  end
  if quiet > 0 then
    redis.call('SET', KEYS[5], run, 'PX', quiet)
  end
end
redis.call('SET', KEYS[4], run, 'PX', ARGV[8])
local pod = redis.call('HMGET', KEYS[3], 'node', 'address', 'started')
if ARGV[6] == 'first' and pod[1] ~= ARGV[1] then
  local is_place = pod[2] == ARGV[10]
  if not is_place or tonumber(pod[3]) < tonumber(ARGV[11]) then
    if is_place then
      redis.call('ZREM', KEYS[1], pod[1])
      redis.call('DEL', ARGV[4] .. pod[1])
      redis.call('ZADD', KEYS[6], string.format('%.0f', now), pod[1])
    end
    local follows = pod[1] and redis.call('ZCARD', KEYS[1]) > 0 and 1 or 0
    redis.call('HSET', KEYS[3], 'node', ARGV[1], 'address', ARGV[10], 'started', ARGV[11], 'follows', follows)
    pod[1] = ARGV[1]
  end
end
local follows = 0
if pod[1] == ARGV[1] then
  redis.call('PEXPIRE', KEYS[3], ARGV[7])
  follows = tonumber(redis.call('HGET', KEYS[3], 'follows'))
end
local term = redis.call('HGET', KEYS[2], 'term')
if not term or string.sub(term, 1, #run) ~= run then
  term = string.format('%s:%.0f:%s', run, now, ARGV[12])
end
redis.call('HSET', KEYS[2], 'record', ARGV[2], 'term', term)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('DEL', ARGV[5] .. ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
for _, key in ipairs({KEYS[1], KEYS[6]}) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - ARGV[9]))
end
local nodes, ids = {}, redis.call('ZRANGE', KEYS[1], 0, -1)
for _, id in ipairs(ids) do
  local record = redis.call('HGET', ARGV[4] .. id, 'record')
  if record then
    nodes[#nodes + 1] = record
    nodes[#nodes + 1] = tonumber(redis.call('GET', ARGV[5] .. id) or '0')
  end
end
return {term, now, follows, math.max(redis.call('PTTL', KEYS[5]), 0), #ids - 1, nodes, redis.call('ZRANGE', KEYS[6], 0, -1)}
