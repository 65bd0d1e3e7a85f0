package secret

import "unsafe"

// hidden points at something that holds bytes of a value, where neither fmt nor
// anything else that walks a struct by reflection gets at it: fmt does not call
// the methods of what sits in an unexported field, and reflection reads what
// unexported pointers point at, but not what an unsafe.Pointer does, because it
// does not know the type. A func that returns the pointer hides it as well, at the
// price of an object more for each.
type hidden[T any] struct {
	_ [0]func() // comparing two of them would look like comparing values
	p unsafe.Pointer
}

func hide[T any](p *T) hidden[T] {
	return hidden[T]{p: unsafe.Pointer(p)} //nolint:gosec // the only thing done with it is get
}

// get returns what hide got, nil for the zero hidden.
func (h hidden[T]) get() *T { return (*T)(h.p) }
