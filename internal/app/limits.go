package app

import (
	"github.com/secretbroker/secretbroker/internal/admission"
	"github.com/secretbroker/secretbroker/internal/config"
)

func callLimits(cfg *config.Config) admission.Limits {
	return admission.Limits{
		PerSecond: cfg.Limits.MaxCallsPerSecondPerPrincipal,
		PerCaller: cfg.Limits.MaxConcurrentCallsPerPrincipal,
		Total:     cfg.Limits.MaxConcurrentCalls,
	}
}
