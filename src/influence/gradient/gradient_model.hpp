#pragma once
// What gradients are computed with: a decoder, the chosen layers, what an optimizer makes of gradients, a sketch.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "idistill/comm/mpi.hpp"
#include "idistill/influence/gradient/preconditioner.hpp"
#include "idistill/influence/gradient/sketch.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::influence {

/// An optimizer's state as every rank sees it, one copy per node; without one a plain gradient step's.
struct LoadedOptimizer {
    std::unique_ptr<comm::NodeSharedMemory> memory;
    std::string sha256;  ///< of the file; empty without one
    Preconditioner preconditioner;
    std::unique_ptr<const OptimizerFile> file;  ///< null without one
};

/// What is made of the state, by one rank of each node. Collective. `option` names it to people.
LoadedOptimizer load_optimizer(comm::Communicator& comm, const std::string& option, const std::string& path,
                               const std::vector<model::LinearLayer>& layers,
                               OptimizerFile::Form form = OptimizerFile::Form::factors);

struct GradientModel {
    const model::Decoder& decoder;
    model::ChosenLayers chosen;
    LoadedOptimizer optimizer;
    std::unique_ptr<GradientSketch> sketch;  ///< null with contraction
};

}  // namespace idistill::influence
