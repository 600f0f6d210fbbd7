package proxy

// A ranking is a [heap] of pointers, ordered by before. Each member stores its index, so
// that it can be removed and moved.
type ranking[T any] struct {
	all    []*T
	before func(a, b *T) bool
	place  func(*T) *int // the field of a member with its index in all
}

// first returns the first member, or nil.
func (r *ranking[T]) first() *T {
	if len(r.all) == 0 {
		return nil
	}
	return r.all[0]
}

func (r *ranking[T]) Len() int           { return len(r.all) }
func (r *ranking[T]) Less(i, j int) bool { return r.before(r.all[i], r.all[j]) }

func (r *ranking[T]) Swap(i, j int) {
	r.all[i], r.all[j] = r.all[j], r.all[i]
	*r.place(r.all[i]), *r.place(r.all[j]) = i, j
}

func (r *ranking[T]) Push(x any) {
	v := x.(*T)
	*r.place(v) = len(r.all)
	r.all = append(r.all, v)
}

func (r *ranking[T]) Pop() any {
	last := len(r.all) - 1
	v := r.all[last]
	r.all[last] = nil
	r.all = r.all[:last]
	return v
}
