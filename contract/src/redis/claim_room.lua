local home = redis.call('HMGET', KEYS[1], 'node', 'epoch', 'sid', 'metadata', 'state')
local sid = home[3] or ARGV[4]
local metadata, state = home[4] or '', home[5] or ''
if home[1] then
  local record = redis.call('GET', ARGV[1] .. home[1])
  if record then
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    return {home[1], home[2], sid, metadata, state, record}
  end
end
local keeps = ARGV[7] == 'keep'
if not keeps and redis.call('EXISTS', KEYS[2]) == 1 then
  return {'quiet'}
end
local record = redis.call('GET', ARGV[1] .. ARGV[3])
if not record or not keeps and cjson.decode(record).state ~= 'open' then
  return {}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = string.format('%.0f', math.max((tonumber(home[2]) or 0) + 1, now))
redis.call('HSET', KEYS[1], 'node', ARGV[3], 'epoch', epoch, 'sid', sid, 'metadata', metadata, 'state', state)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('INCR', ARGV[2] .. ARGV[3])
redis.call('PEXPIRE', ARGV[2] .. ARGV[3], ARGV[6])
return {ARGV[3], epoch, sid, metadata, state, record}
