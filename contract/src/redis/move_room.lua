local home = redis.call('HMGET', KEYS[1], 'node', 'epoch', 'sid')
if home[1] ~= ARGV[1] or home[2] ~= ARGV[2] then
  return {'lost'}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('GET', KEYS[2]) ~= run or redis.call('EXISTS', KEYS[3]) == 1 then
  return {'quiet'}
end
local record = redis.call('HGET', ARGV[6] .. ARGV[3], 'record')
if not record or cjson.decode(record).state ~= 'open' then
  return {}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = string.format('%.0f', math.max(tonumber(home[2]) + 1, now))
redis.call('HSET', KEYS[1], 'node', ARGV[3], 'epoch', epoch, 'metadata', ARGV[4], 'state', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[8])
local reserved = redis.call('INCR', ARGV[7] .. ARGV[3])
redis.call('PEXPIRE', ARGV[7] .. ARGV[3], ARGV[9])
return {ARGV[3], epoch, home[3], ARGV[4], ARGV[5], record, tostring(reserved), ''}
