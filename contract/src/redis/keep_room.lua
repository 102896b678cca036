if redis.call('EXISTS', ARGV[1] .. ARGV[2]) == 0 then
  return {'again'}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local home = redis.call('HMGET', KEYS[1], 'node', 'epoch')
local is_here = home[1] == ARGV[2]
local stored, own = tonumber(home[2] or '0'), tonumber(ARGV[3])
if ARGV[6] == 'resume' then
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  local is_quiet = redis.call('GET', KEYS[2]) ~= run or redis.call('EXISTS', KEYS[3]) == 1
  if is_quiet or math.abs(now - ARGV[8]) > tonumber(ARGV[9]) then
    return {'again'}
  end
  if home[1] and (not is_here or stored ~= own) then
    return {'gone'}
  end
elseif home[1] and not is_here and stored >= own then
  return {'gone'}
end
local epoch = home[2]
if not is_here or stored ~= own or ARGV[6] == 'resume' or ARGV[7] == 'raise' then
  epoch = string.format('%.0f', math.max(stored + 1, own + 1, now))
  redis.call('HSET', KEYS[1], 'node', ARGV[2], 'epoch', epoch, 'sid', ARGV[4])
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {'here', epoch}
