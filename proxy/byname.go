package proxy

import (
	"maps"
	"sync"
)

// byName has a counter for each configured name. Names are never removed; reloads may
// add some. The zero value is empty. Its methods are safe for concurrent use.
type byName[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]V
}

func (b *byName[K, V]) get(name K, made func() V) V {
	b.mu.RLock()
	v, ok := b.m[name]
	b.mu.RUnlock()
	if ok {
		return v
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, ok := b.m[name]; ok {
		return v
	}
	if b.m == nil {
		b.m = map[K]V{}
	}
	v = made()
	b.m[name] = v
	return v
}

func (b *byName[K, V]) all() map[K]V {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return maps.Clone(b.m)
}
