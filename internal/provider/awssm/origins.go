package awssm

import (
	"context"
	"net/url"
	"os"
	"slices"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"

	"github.com/secretbroker/secretbroker/internal/provider/egress"
	"github.com/secretbroker/secretbroker/internal/secret"
)

// The default endpoints from which machines and containers get their keys, used
// unless the environment names another. All are local to the machine and use plain
// HTTP.
var metadataOrigins = []string{
	"http://169.254.169.254", "http://[fd00:ec2::254]", // EC2
	"http://169.254.170.2",                           // ECS
	"http://169.254.170.23", "http://[fd00:ec2::23]", // EKS Pod Identity
}

// defaultOrigins returns the only origins that the credential type default sends to:
//
//   - STS in the integration's region, and the sign-in portal of the region that
//     the user's profile names;
//   - the endpoints in AWS_CONTAINER_CREDENTIALS_FULL_URI and
//     AWS_EC2_METADATA_SERVICE_ENDPOINT, or else the metadata services of EC2, ECS
//     and EKS.
func defaultOrigins(ctx context.Context, a *Settings) (origins, local []string) {
	origins = []string{a.STSEndpoint}
	if partition, ok := secret.AWSPartitionOf(a.STSRegion); ok {
		origins = append(origins, "https://sts."+a.STSRegion+partition.Suffix)
	}
	profile := os.Getenv("AWS_PROFILE")
	if profile == "" {
		profile = "default"
	}
	p, err := config.LoadSharedConfigProfile(ctx, profile, func(o *config.LoadSharedConfigOptions) {
		for _, f := range []struct {
			env string
			to  *[]string
		}{{"AWS_CONFIG_FILE", &o.ConfigFiles}, {"AWS_SHARED_CREDENTIALS_FILE", &o.CredentialsFiles}} {
			if path := os.Getenv(f.env); path != "" {
				*f.to = []string{path}
			}
		}
		o.Logger = logging.Nop{}
	})
	if err == nil {
		region := p.SSORegion
		if p.SSOSession != nil {
			region = p.SSOSession.SSORegion
		}
		if partition, ok := secret.AWSPartitionOf(region); ok {
			origins = append(origins, "https://oidc."+region+partition.Suffix, "https://portal.sso."+region+partition.Suffix)
		}
	}
	local = slices.Clone(metadataOrigins)
	for _, name := range []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"} {
		if u, err := url.Parse(os.Getenv(name)); err == nil && u.Host != "" {
			local = append(local, egress.Origin(u))
		}
	}
	return origins, local
}
