-- One look at the whole queue; changes nothing. Returns {server time in ms, lengths of high, pending, processing,
-- retry, failed, sizes of meta, body, due, lease, orphans, 1 if paused, eldest of high or '', eldest of pending or ''}.
-- Orphans: elements of processing without a lease and leases without an element there.
local covered = {}
local orphans = 0
for _, id in ipairs(call('ZRANGE', LEASE, 0, -1)) do
  local text = call('HGET', BODY, id)
  if text then
    covered[text] = (covered[text] or 0) + 1
  else
    orphans = orphans + 1
  end
end
for _, text in ipairs(call('LRANGE', PROCESSING, 0, -1)) do
  if (covered[text] or 0) > 0 then
    covered[text] = covered[text] - 1
  else
    orphans = orphans + 1
  end
end
for _, left in pairs(covered) do orphans = orphans + left end
return {int(now_ms), call('LLEN', HIGH), call('LLEN', PENDING), call('LLEN', PROCESSING), call('LLEN', RETRY),
  call('LLEN', FAILED), call('HLEN', META), call('HLEN', BODY), call('ZCARD', DUE), call('ZCARD', LEASE), orphans,
  call('EXISTS', PAUSED), call('LINDEX', HIGH, -1) or '', call('LINDEX', PENDING, -1) or ''}
