local home = redis.call('HMGET', KEYS[1], 'node', 'epoch', 'sid', 'metadata', 'state')
local sid = home[3] or ARGV[5]
local metadata, state = home[4] or '', home[5] or ''
local record = home[1] and redis.call('HGET', ARGV[1] .. home[1], 'record')
if record and home[1] ~= ARGV[3] then
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  return {home[1], home[2], sid, metadata, state, record, '0', ''}
end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if redis.call('GET', KEYS[2]) ~= run or redis.call('EXISTS', KEYS[3]) == 1 then
  return {'quiet'}
end
local node = record and home[1] or ARGV[4]
if not record then
  local lease = redis.call('HMGET', ARGV[1] .. node, 'record', 'load')
  record = lease[1]
  if not record or cjson.decode(record).state ~= 'open' then
    return {}
  end
  local free = tonumber(string.match(lease[2], '%d+$'))
  if not home[1] and tonumber(redis.call('GET', ARGV[2] .. node) or '0') >= free then
    return {'full'}
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if math.abs(now - ARGV[8]) > tonumber(ARGV[9]) then
  return {'late'}
end
local reserved, earlier = 0, ''
if node ~= home[1] then
  earlier = home[1] or ''
  reserved = redis.call('INCR', ARGV[2] .. node)
  redis.call('PEXPIRE', ARGV[2] .. node, ARGV[7])
end
local epoch = string.format('%.0f', math.max((tonumber(home[2] or '0')) + 1, now))
redis.call('HSET', KEYS[1], 'node', node, 'epoch', epoch, 'sid', sid, 'metadata', metadata, 'state', state)
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {node, epoch, sid, metadata, state, record, tostring(reserved), earlier}
