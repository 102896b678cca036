local home = redis.call('HMGET', KEYS[1], 'node', 'epoch')
if home[1] == ARGV[1] and home[2] == ARGV[2] then
  return redis.call('DEL', KEYS[1])
end
return 0
