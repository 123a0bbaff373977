#pragma once
// Shapes small enough to count by hand.

#include <string>
#include <vector>

#include "idistill/model/model_config.hpp"

namespace idistill::test {

/// hidden 4, intermediate 6, three blocks, two heads of 2 with one key head, vocabulary 10.
inline model::ModelConfig small_model() {
    model::ModelConfig model;
    model.family = "llama";
    model.vocabulary = 10;
    model.hidden = 4;
    model.intermediate = 6;
    model.blocks = 3;
    model.heads = 2;
    model.kv_heads = 1;
    model.head_dim = 2;
    model.max_positions = 64;
    return model;
}

/// Choices of its layers, as --parameters makes them: of one block, of several, of every kind.
inline const std::vector<std::string> layer_choices{
    "down_proj",    "1\\.mlp\\.up", "2\\.mlp",      "q_proj",     "1\\..*[kv]_proj",
    "2\\..*v_proj", "2\\..*o_proj", "1\\..*k_proj", "0\\..*down", ""};

}  // namespace idistill::test
