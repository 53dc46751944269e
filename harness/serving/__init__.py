"""Model servers for the reasoning stage: what a stage may ask for, replicas, the client."""
