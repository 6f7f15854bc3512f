"""Accounts of a model's file: what every array of it is for, by names, shapes and places, before any is measured."""
