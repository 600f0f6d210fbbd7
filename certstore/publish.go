package certstore

import (
	"slices"
	"time"
)

// publish makes handshakes use the current state of the tree, if the tree is
// the one in use. problems explains hasty.
func (s *Store) publish(t *tree, hasty bool) {
	s.swap.Lock()
	defer s.swap.Unlock()
	if s.tree == t {
		s.publishTree(hasty)
	}
}

// publishTree is publish for callers that hold swap.
func (s *Store) publishTree(hasty bool) {
	read := new(harvest)
	if s.tree != nil {
		read = s.tree.have.Load()
	}
	changed := s.read != read
	date := s.nextDate != 0 && time.Now().Unix() >= s.nextDate
	unlogged := slices.ContainsFunc(s.table().problems, func(p Problem) bool { return !p.logged })
	if !changed && !date && !unlogged {
		return
	}
	s.read = read
	s.replaceTable(hasty)
	if changed {
		t := s.table()
		ignored, more := s.ignored()
		s.log.Info("certificates: loaded", "certificates", len(t.all), "names", t.size(), "problems", len(t.problems), "ignored", len(ignored)+more)
	}
}

// replaceTable swaps the table once. The caller holds swap.
func (s *Store) replaceTable(hasty bool) {
	all := slices.Clip(s.read.all)
	for _, c := range s.installed {
		all = append(all, c)
	}
	old := s.table()
	next := newTable(old, all)
	next.problems = s.problems(next, old.problems, hasty)
	s.nextDate = next.nextDate(time.Now())
	s.View().table.Store(next)
	s.cache.drop(func(c *certificate) bool { return c.round != next.round })
}
