-- ARGV: 1 to pause, 0 to resume.
if ARGV[1] == '1' then
  call('SET', PAUSED, '1')
else
  call('DEL', PAUSED)
  for _ = 1, WAKE_CAP do wake() end
end
return 1
