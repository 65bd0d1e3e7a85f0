package config

import (
	"strings"

	"github.com/secretbroker/secretbroker/internal/integration"
	"github.com/secretbroker/secretbroker/internal/strictyaml"
)

// Events configures sources of events that are not those of one integration.
type Events struct {
	Sources []EventSource `yaml:"sources"`
}

// EventSource is a source of events for many integrations.
type EventSource struct {
	// File has the settings of the source, in the format of an integration without grants.
	// Its stores limit the secrets that the source may name. Required.
	File string `yaml:"file"`
	// Integrations are the ids of the integrations that it is for, or prefixes followed by
	// "*". Required.
	Integrations []string `yaml:"integrations"`
}

// maxEventSources is the maximum number of Events.Sources.
const maxEventSources = 50

func (e *Events) validate(doc *strictyaml.Document) {
	if len(e.Sources) > maxEventSources {
		doc.Fault("events.sources", "expected at most %d", maxEventSources)
	}
	for i := range e.Sources {
		path := strictyaml.Index("events.sources", i)
		required(doc, path+".file", "a file in the format of an integration, with the settings of the source and without grants")
		if doc.Has(path+".file") && e.Sources[i].File == "" {
			doc.Fault(path+".file", "expected the name of a file")
		}
		required(doc, path+".integrations", `the ids of the integrations that the source is for, such as ["team-a-*"], or ["*"] for all`)
		for j, pattern := range e.Sources[i].Integrations {
			if fault := checkIDPattern(pattern); fault != "" {
				doc.Fault(strictyaml.Index(path+".integrations", j), "%s", fault)
			}
		}
		if doc.Has(path+".integrations") && len(e.Sources[i].Integrations) == 0 {
			doc.Fault(path+".integrations", `an empty list is a source for no integration; use ["*"] for all`)
		}
	}
}

// checkIDPattern returns what is wrong with a pattern of ids of integrations, "" if nothing.
func checkIDPattern(pattern string) string {
	prefix, isPrefix := strings.CutSuffix(pattern, "*")
	if isPrefix && (prefix == "" || integration.ValidID(strings.TrimRight(prefix, "._-")+"x")) && !strings.Contains(prefix, "..") {
		return ""
	}
	if !isPrefix && integration.ValidID(pattern) {
		return ""
	}
	return `expected the id of an integration, or the beginning of ids followed by "*"`
}

// For reports whether the source is one for the integration with an id.
func (s *EventSource) For(id string) bool {
	for _, pattern := range s.Integrations {
		prefix, isPrefix := strings.CutSuffix(pattern, "*")
		if id == pattern || isPrefix && strings.HasPrefix(id, prefix) {
			return true
		}
	}
	return false
}

func (e *Events) paths() []*string {
	var paths []*string
	for i := range e.Sources {
		paths = append(paths, &e.Sources[i].File)
	}
	return paths
}
