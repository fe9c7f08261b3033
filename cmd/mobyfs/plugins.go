package main

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/step"
)

// newPluginsCommand tells what Docker could find under the driver's name; mobyctl plugin status runs it over SSH.
func newPluginsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "plugins",
		Short: "Print what is registered with Docker under the name mobyfs, as JSON, in the order in which Docker looks",
		Long: "Print what is registered with Docker under the name mobyfs, as JSON, in the order in which Docker looks.\n" +
			"It changes nothing, and Docker is not made to use the driver.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := discovery.Look(cmd.Context(), "", agent.DockerSocket, told(step.EnvDir+"/mobyfs.env"), keptEndpoints(step.KeptPath))
			return printJSON(cmd.OutOrStdout(), report)
		},
	}
}

// told is the endpoint that an environment file tells the agent, "" if there is none. One of before endpoints could be
// chosen means the socket.
func told(envFile string) discovery.Endpoint {
	env, err := readEnv(envFile)
	if os.IsNotExist(err) {
		return ""
	}
	return cmp.Or(discovery.Endpoint(env["MOBYFS_ENDPOINT"]), discovery.SockEndpoint)
}
