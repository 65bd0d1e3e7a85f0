package server

import (
	"log/slog"

	secretbrokerv1 "github.com/secretbroker/secretbroker/gen/secretbroker/v1"
)

// Explainer answers auditors' questions.
type Explainer any

// policyService translates between the wire and the explanations.
type policyService struct {
	secretbrokerv1.UnimplementedPolicyServiceServer
	explainer Explainer
	log       *slog.Logger
}
