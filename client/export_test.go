package client

import (
	"context"
	"time"
)

// SetWait replaces the waits between attempts.
func (c *Client) SetWait(wait func(context.Context, time.Duration) error) { c.wait = wait }

// Sleep is the default wait of New.
var Sleep = sleep

// KnownFields are the fields that "*" means in the mask of UpdateIntegration.
var KnownFields = knownFields
