#!/usr/bin/env bash
mkdir -p runs/faces
