"""The CustomResourceDefinition and its reference, written from the models: schema, CEL rules, documentation."""
