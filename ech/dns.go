package ech

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"
)

// TTL is the time to live of the records that Records writes.
const TTL = time.Hour

// Records returns the HTTPS and SVCB records (RFC 9460; RFC 9848 for "ech") of a server
// name at a port, in the form of a zone file. Clients look HTTPS up for wss too (section
// 9.6); SVCB is for those that look up a scheme of its own (section 2.3).
//
// A wildcard has no name of its own for a port, because a wildcard in DNS is the first
// label. For a port other than 443 the answer is a comment.
func Records(name string, port int, list []byte) []string {
	ttl, value := int(TTL.Seconds()), base64.StdEncoding.EncodeToString(list)
	if strings.HasPrefix(name, "*.") {
		if port != 443 {
			return []string{fmt.Sprintf("; %s at port %d: a wildcard can't have records for a port; write those of each name", name, port)}
		}
		return []string{fmt.Sprintf("%s. %d IN HTTPS 1 . ech=%s", name, ttl, value)}
	}
	owner := name
	target := "."
	if port != 443 { // where the record has another owner, "." would mean that one
		owner, target = fmt.Sprintf("_%d._https.%s", port, name), name+"."
	}
	return []string{
		fmt.Sprintf("%s. %d IN HTTPS 1 %s ech=%s", owner, ttl, target, value),
		fmt.Sprintf("_%d._wss.%s. %d IN SVCB 1 %s. alpn=http/1.1 port=%d ech=%s", port, name, ttl, name, port, value),
	}
}
