"""The preference dataset on disk: shards, schema, splits, published versions, exports and the report."""
