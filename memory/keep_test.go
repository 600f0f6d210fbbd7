package memory

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomBetweenCollections(t *testing.T) {
	const mb = 1 << 20
	for _, test := range []struct {
		what         string
		live, stacks uint64
		want         int
	}{
		{"nothing measured yet", 0, 0, maxPercent},
		{"a gate without clients", 1 * mb, 0, maxPercent},
		{"8 MiB and a quarter for 16 MiB", 16 * mb, 0, 75},
		{"stacks are not room", 16 * mb, 8 * mb, 50},
		{"many clients", 64 * mb, 0, 37},
		{"never less than a quarter", 1 << 40, 0, minPercent},
	} {
		if got := percentFor(test.live, test.stacks); got != test.want {
			t.Errorf("%s: percentFor(%d, %d) = %d; want %d", test.what, test.live, test.stacks, got, test.want)
		}
	}
}

// After each collection the percentage follows the live memory, until stop.
func TestPacerFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(gcPercent(t))
	live := make([]byte, 64<<20)
	stop := Keep()
	if got := gcPercent(t); got != maxPercent {
		t.Errorf("at the start: %d %%; want %d", got, maxPercent)
	}
	for deadline := time.Now().Add(10 * time.Second); gcPercent(t) > 45; {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatalf("with 64 MiB live: %d %%; want less than 45", gcPercent(t))
		}
		runtime.Gosched()
	}
	runtime.KeepAlive(live)
	stop()
	debug.SetGCPercent(123)
	for range 5 {
		runtime.GC()
	}
	if got := gcPercent(t); got != 123 {
		t.Errorf("after stop: %d %%; want 123, as it was set", got)
	}
}

func TestGOGCIsObeyed(t *testing.T) {
	t.Setenv("GOGC", "77")
	defer debug.SetGCPercent(debug.SetGCPercent(77))
	stop := Keep()
	defer stop()
	runtime.GC()
	if got := gcPercent(t); got != 77 {
		t.Errorf("%d %%; want 77", got)
	}
}

// Memory from a storm is returned to the system.
func TestSpareMemoryGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Only giveMemoryBack may return it.
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		const storm = 64 << 20
		for range storm >> 20 {
			garbage = make([]byte, 1<<20)
		}
		garbage = nil
		before := readHeap().spare()
		if before < storm {
			t.Fatalf("%d bytes are spare; want %d and more", before, storm)
		}
		done := make(chan struct{})
		go giveMemoryBack(done)
		time.Sleep(spareInterval + 1)
		synctest.Wait()
		close(done)
		if after := readHeap().spare(); after > before-storm/2 {
			t.Errorf("%d bytes were spare, and %d still are; want most of %d gone", before, after, storm)
		}
	})
}

var garbage []byte

func gcPercent(t *testing.T) int {
	t.Helper()
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		t.Fatal("this Go release does not tell its percentage")
	}
	return int(s[0].Value.Uint64())
}
