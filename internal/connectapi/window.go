package connectapi

import (
	"slices"
	"strings"
	"time"
)

// Window is a time of some days of the week. If To is before From, it ends on the next day.
type Window struct {
	// Days are mon, tue, wed, thu, fri, sat and sun; none means every day.
	Days []string `yaml:"days"`
	// From and To are HH:MM in Zone, an IANA time zone such as Europe/Berlin; empty for UTC.
	From string `yaml:"from"`
	To   string `yaml:"to"`
	Zone string `yaml:"zone"`

	from, to time.Duration // since midnight
	location *time.Location
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

// parse fills in the private fields, and returns what is wrong.
func (w *Window) parse() (fault string) {
	for _, day := range w.Days {
		if !slices.Contains(weekdays, day) {
			return "days: expected " + strings.Join(weekdays, ", ")
		}
	}
	var ok1, ok2 bool
	w.from, ok1 = clock(w.From)
	w.to, ok2 = clock(w.To)
	if !ok1 || !ok2 || w.from == w.to {
		return `from and to: expected two different times such as "22:00" and "04:30", in quotation marks`
	}
	var err error
	if w.location, err = time.LoadLocation(w.Zone); err != nil || w.Zone == "Local" {
		return "zone: expected an IANA time zone that this machine knows, such as Europe/Berlin, or leave it out for UTC"
	}
	return ""
}

func clock(s string) (time.Duration, bool) {
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		return 0, false
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, true
}

func (w *Window) on(day time.Weekday) bool {
	return len(w.Days) == 0 || slices.Contains(w.Days, weekdays[day])
}

func (w *Window) contains(t time.Time) bool {
	t = t.In(w.location)
	at := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
	if w.from < w.to {
		return w.on(t.Weekday()) && w.from <= at && at < w.to
	}
	return w.on(t.Weekday()) && at >= w.from || w.on((t.Weekday()+6)%7) && at < w.to
}

// Open returns the first time at or after t at which a restart may begin. Its resolution is
// a minute. It is t if that is within a window, or if there are no windows.
func (r *Restarts) Open(t time.Time) time.Time {
	if len(r.Windows) == 0 {
		return t
	}
	const week = 8 * 24 * 60 // and a day, for changes of the clock
	for range week {
		for i := range r.Windows {
			if r.Windows[i].contains(t) {
				return t
			}
		}
		t = t.Truncate(time.Minute).Add(time.Minute)
	}
	return t // every window falls into hours that a change of the clock skips
}
