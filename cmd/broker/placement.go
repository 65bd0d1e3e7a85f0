package main

import (
	"errors"
	"fmt"

	"github.com/secretbroker/secretbroker/internal/config"
	"github.com/secretbroker/secretbroker/internal/placement"
	"github.com/secretbroker/secretbroker/internal/registry"
)

// misplaced lists the integrations that do not comply with the organisation's
// rules, and why. Nobody uses them while that is so.
func misplaced(places *placement.Rules, integrations []*registry.Integration) []string {
	var texts []string
	for _, in := range integrations {
		for _, f := range places.Check(in.Kind, in.Placement) {
			texts = append(texts, fmt.Sprintf("integration %s: %s: %s", in.ID, f.Setting, f.Text))
		}
	}
	return texts
}

// placementFaults is misplaced for a configuration that nobody runs yet.
func placementFaults(cfg *config.Config, integrations []*registry.Integration) []error {
	places, err := placement.New(cfg.Placement.Rules())
	if err != nil {
		return []error{err}
	}
	var faults []error
	for _, text := range misplaced(places, integrations) {
		faults = append(faults, errors.New(text))
	}
	return faults
}
