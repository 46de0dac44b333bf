"""SQL conditions on the rows of `pairs`: which pairs wait for an annotator.

Their parameters: :annotator, a name; :now, seconds since 1970; :lease_seconds.
"""

from __future__ import annotations

_NOT_VOTED = (
    "NOT EXISTS (SELECT 1 FROM votes WHERE votes.pair_id = pairs.pair_id AND annotator = :annotator AND NOT withdrawn)"
)
# A lease that ends later than a new one would was made before the clock was set back. It does not count.
VALID_LEASE = "until BETWEEN :now AND :now + :lease_seconds"
OTHER_LEASES = (
    f"(SELECT count(*) FROM leases WHERE leases.pair_id = pairs.pair_id AND annotator != :annotator AND {VALID_LEASE})"
)
GOLD = f"listed AND gold AND {_NOT_VOTED}"
PENDING = f"listed AND NOT gold AND status = 'pending' AND {_NOT_VOTED}"
DISPUTED = f"listed AND NOT gold AND status = 'disputed' AND {_NOT_VOTED}"
# Pairs on the screens of others count as if they had those votes already.
PENDING_AND_FREE = f"{PENDING} AND {OTHER_LEASES} < wanted"
DISPUTED_AND_FREE = f"{DISPUTED} AND {OTHER_LEASES} = 0"
