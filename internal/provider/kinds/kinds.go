// Package kinds is the list of the kinds of stores that the broker knows. Everything
// else about a kind is in its own package, except the syntax of its references, which
// is in package secret.
package kinds

import (
	"sync"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/provider"
	"github.com/secretbroker/secretbroker/internal/provider/awssm"
	"github.com/secretbroker/secretbroker/internal/provider/azurekv"
	"github.com/secretbroker/secretbroker/internal/provider/gcpsm"
	"github.com/secretbroker/secretbroker/internal/provider/localfile"
	"github.com/secretbroker/secretbroker/internal/provider/vaultkv"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// list has one line for each kind.
var list = []struct {
	spec   integration.Spec
	opener func(provider.Config) provider.Opener
	keeps  func(*integration.Integration) bool
	events func(provider.Config) provider.EventOpener
}{
	{spec: azurekv.Spec(), opener: azurekv.Opener, events: azurekv.EventOpener},
	{spec: awssm.Spec(), opener: awssm.Opener, events: awssm.EventOpener},
	{spec: gcpsm.Spec(), opener: gcpsm.Opener, events: gcpsm.EventOpener},
	{spec: vaultkv.Spec(), opener: vaultkv.Opener, keeps: vaultkv.Keeps},
	{spec: localfile.Spec(), opener: localfile.Opener, events: localfile.EventOpener},
}

// All returns the kinds, for the packages that read documents.
var All = sync.OnceValue(func() *integration.Kinds {
	specs := make([]integration.Spec, len(list))
	for i, k := range list {
		specs[i] = k.spec
	}
	return integration.NewKinds(specs...)
})

// Openers returns the openers of all kinds, for a provider.Set.
func Openers(c provider.Config) map[secret.Kind]provider.Opener {
	openers := make(map[secret.Kind]provider.Opener, len(list))
	for _, k := range list {
		openers[k.spec.Kind] = k.opener(c)
	}
	return openers
}

// EventOpeners returns the openers of the sources of events, of the kinds that have them.
func EventOpeners(c provider.Config) map[secret.Kind]provider.EventOpener {
	openers := make(map[secret.Kind]provider.EventOpener)
	for _, k := range list {
		if k.events != nil {
			openers[k.spec.Kind] = k.events(c)
		}
	}
	return openers
}

// Keeps reports whether the integration's provider has a credential that must be
// renewed even without reads; see provider.SetConfig.
func Keeps(in *integration.Integration) bool {
	for _, k := range list {
		if k.spec.Kind == in.Kind && k.keeps != nil {
			return k.keeps(in)
		}
	}
	return false
}
