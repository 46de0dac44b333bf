"""The preference dataset on disk: schema, shards, splits, publishing and export."""
