package files

import (
	"fmt"
	"time"
)

// calm is how long a Place must answer before new trouble is logged as new. It
// is longer than the time between two looks at a file.
const calm = 5 * time.Minute

// A report decides which trouble of a Place is logged. Trouble that returns
// within calm is logged once more, as a repetition, and then not until the
// Place has answered for that long. So a file system that is always slow costs
// two warnings, and not two lines for every look. A report is guarded by its
// Place's mu.
type report struct {
	trouble bool      // there is trouble now
	first   time.Time // when the first trouble of the series began
	ended   time.Time // when the latest trouble ended; zero: none yet
	repeats int       // how often it has returned
}

// begins records trouble that began at since. It returns whether to log it, and
// whether it is a repetition.
func (r *report) begins(now, since time.Time) (say, repeated bool) {
	if r.quiet(now) {
		*r = report{trouble: true, first: since}
		return true, false
	}
	r.trouble = true
	r.repeats++
	return r.repeats == 1, true
}

// ends records the end of the trouble. It returns whether to log it: the end of
// a repetition may not be the last.
func (r *report) ends(now time.Time) (say bool) {
	r.trouble, r.ended = false, now
	return r.repeats == 0
}

// over reports, once, that repeated trouble is over.
func (r *report) over(now time.Time) bool {
	if r.repeats == 0 || !r.quiet(now) {
		return false
	}
	r.repeats = 0
	return true
}

// quiet reports whether the Place has no trouble and had none recently.
func (r *report) quiet(now time.Time) bool {
	return !r.trouble && (r.ended.IsZero() || now.Sub(r.ended) >= calm)
}

// sayTrouble logs that the Place hangs or is slow.
func (p *Place) sayTrouble(e HangError, repeated bool) {
	text, hint := ": the file system does not answer", "is the file system mounted? is it a pipe without a writer? the gate reads it again when it answers"
	if e.Slow {
		text, hint = ": the file system is slow", "the gate continues with what it has read, and adds the rest when it is read"
	}
	if repeated {
		hint = fmt.Sprintf("this happens repeatedly: the next message about it follows after the file system has answered for %d minutes", calm/time.Minute)
	}
	log := p.log()
	log.Warn(p.what+text, "file", e.Path, "since", e.Since, "hint", hint)
}

const (
	answersAgain = ": the file system answers again"
	isRead       = ": everything is read"
)

// sayIfOver logs the end of repeated trouble.
func (p *Place) sayIfOver() {
	p.mu.Lock()
	over, first, path := p.news.over(time.Now()), p.news.first, p.last.Path
	p.mu.Unlock()
	if over {
		p.sayOver(answersAgain, path, first)
	}
}

// sayOver logs the end of the trouble.
func (p *Place) sayOver(text, path string, since time.Time) {
	log := p.log()
	log.Info(p.what+text, "file", path, "duration", time.Since(since).Round(time.Millisecond))
}
