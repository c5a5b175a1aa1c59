"""The published language: what travels over Kafka, as frozen strict models that other services may depend on."""
