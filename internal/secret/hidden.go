package secret

import "unsafe"

// hidden is a pointer to memory that contains bytes of a value. Neither fmt nor any
// other code that walks a struct by reflection can follow it.
//
// A String method would not suffice: fmt does not call the methods of unexported
// fields, and reflection can follow an unexported pointer to its target. It cannot
// follow an unsafe.Pointer, because the type of the target is unknown. A func that
// returns the pointer would hide it as well, but would cost one more allocation.
type hidden[T any] struct {
	_ [0]func() // forbids ==, which would compare addresses and not values
	p unsafe.Pointer
}

func hide[T any](p *T) hidden[T] {
	return hidden[T]{p: unsafe.Pointer(p)} //nolint:gosec // only get uses it, with the same type
}

// get returns the pointer that was passed to hide, nil for the zero hidden.
func (h hidden[T]) get() *T { return (*T)(h.p) }
