package gcpsm

import (
	"strings"
	"sync"
)

// projectNumbers are the numbers of projects, by ID, as last learned from reads by any
// integration. Google's projects are the same for all of them. The numbers determine nothing
// but which secrets an event is about; see numbers for what protects reads. The map has at
// most one entry for each project in an integration since the start.
var projectNumbers sync.Map // string to string

// learnProject records the number of a project that a read has shown.
func learnProject(id, number string) {
	if known, ok := projectNumbers.Load(id); !ok || known != number {
		projectNumbers.Store(id, number)
	}
}

// sameProject reports whether two stores, of which one has the ID of a project and the other a
// number, may be the same. They are surely the same if the number of the ID is known.
func sameProject(a, b string) (same, sure bool) {
	a, aPlace := splitStore(a)
	b, bPlace := splitStore(b)
	if isNumber(a) {
		a, b = b, a
	}
	if aPlace != bPlace || isNumber(a) || !isNumber(b) {
		return false, false
	}
	known, sure := projectNumbers.Load(a)
	return !sure || known == b, sure
}

// splitStore returns the project of a store, and the rest of its name.
func splitStore(store string) (project, place string) {
	project, place, _ = strings.Cut(strings.TrimPrefix(store, "projects/"), "/")
	return project, place
}
