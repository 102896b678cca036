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
local lease = redis.call('HMGET', KEYS[2], 'term', 'record')
local term, is_new = lease[1], lease[2] ~= ARGV[2]
if not term or string.sub(term, 1, #run) ~= run then
  is_new = true
  term = string.format('%s:%.0f:%s', run, now, ARGV[12])
end
redis.call('HSET', KEYS[2], 'record', ARGV[2], 'load', ARGV[13], 'term', term)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('DEL', ARGV[5] .. ARGV[1])
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
for _, key in ipairs({KEYS[1], KEYS[6]}) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - ARGV[9]))
end
local count = redis.call('ZCARD', KEYS[1])
local view = redis.call('HMGET', KEYS[7], 'at', 'version', 'loads')
local age = view[1] and now - view[1] or -1
if is_new or age < 0 or age >= count * ARGV[15] then
  local ids, records, loads = redis.call('ZRANGE', KEYS[1], 0, -1), {}, {}
  table.sort(ids)
  for _, id in ipairs(ids) do
    local lease = redis.call('HMGET', ARGV[4] .. id, 'record', 'load')
    if lease[1] then
      records[#records + 1] = lease[1]
      loads[#loads + 1] = lease[2] .. ',' .. (redis.call('GET', ARGV[5] .. id) or '0')
    end
  end
  records = '[' .. table.concat(records, ',') .. ']'
  view[3] = '[[' .. table.concat(loads, '],[') .. ']]'
  if redis.call('HGET', KEYS[7], 'records') ~= records then
    view[2] = string.format('%.0f:%s:%s', now, ARGV[1], ARGV[12])
    redis.call('HSET', KEYS[7], 'version', view[2], 'records', records)
  end
  redis.call('HSET', KEYS[7], 'at', string.format('%.0f', now), 'loads', view[3])
  redis.call('PEXPIRE', KEYS[7], ARGV[9])
end
local records = view[2] ~= ARGV[14] and redis.call('HGET', KEYS[7], 'records') or ''
local gone = redis.call('ZRANGE', KEYS[6], 0, -1)
return {term, now, follows, math.max(redis.call('PTTL', KEYS[5]), 0), count - 1, gone, view[2], records, view[3]}
