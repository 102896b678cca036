local home = redis.call('HMGET', KEYS[1], 'node', 'epoch')
if home[1] == ARGV[1] and home[2] == ARGV[2] then
  redis.call('HSET', KEYS[1], 'metadata', ARGV[3], 'state', ARGV[4])
  return 1
end
return 0
