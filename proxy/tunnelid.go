package proxy

import (
	"crypto/rand"
	"encoding/binary"
	"strconv"
	"sync/atomic"
)

// A tunnelID identifies a client's opening handshake and its tunnel: at the upstream
// (X-Request-Id), while the tunnel is open, and in the log. IDs ascend in the order of
// the requests. The first one of a process is random, so that two processes rarely use
// the same ID.
type tunnelID uint64

// idBase gives IDs of eight letters and digits.
const idBase = 36

func (id tunnelID) String() string { return strconv.FormatUint(uint64(id), idBase) }

func parseTunnelID(s string) (tunnelID, bool) {
	n, err := strconv.ParseUint(s, idBase, 64)
	return tunnelID(n), err == nil && n > 0
}

// tunnelIDs gives out the IDs of a process. It is safe for concurrent use.
type tunnelIDs struct{ last atomic.Uint64 }

// newTunnelIDs begins with a random ID of eight digits.
func newTunnelIDs() *tunnelIDs {
	least := uint64(1)
	for range 7 {
		least *= idBase
	}
	var b [8]byte
	rand.Read(b[:])
	ids := &tunnelIDs{}
	ids.last.Store(least + binary.LittleEndian.Uint64(b[:])%least)
	return ids
}

func (ids *tunnelIDs) next() tunnelID { return tunnelID(ids.last.Add(1)) }
