// Kernel ridge as a member of its family: its options, and what leaves them without effect.

#include "idistill/propagation/options.hpp"

#include "idistill/embedding/parts.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/propagation/members.hpp"
#include "idistill/propagation/settings.hpp"

namespace idistill::propagation {

Member kernel_ridge_member();                                                   // listed in members.cpp
std::unique_ptr<Propagation> make_kernel_ridge(const options::Values& values);  // member.cpp

namespace {

using namespace options;
using nlohmann::json;

std::vector<Option> own_options() {
    return {choice_option(
                propagation_option("kernel", "KIND",
                                   "of several embeddings: sum (the mean) or product of each one's own kernel; "
                                   "auto: chosen by leave-one-out"),
                &KernelRidgeSettings::kernel,
                {{"auto", KernelChoice::automatic}, {"sum", KernelChoice::sum}, {"product", KernelChoice::product}}),
            switch_option(propagation_option("metadata", "on|off", "also use source and lengths of the samples"),
                          &KernelRidgeSettings::metadata),
            auto_or_number_option(propagation_option("damping", "auto|X", "ridge; auto: chosen by leave-one-out"),
                                  &KernelRidgeSettings::damping),
            word_or_number_option<KernelRidgeSettings>(
                propagation_option("bandwidth", "median|auto|X",
                                   "width of the kernel in embedding distance; auto: of 1/4, 1/2, 1, 2 and 4 times the "
                                   "median distance, chosen by leave-one-out with the damping"),
                {"median", "auto"}, above_zero(),
                [](KernelRidgeSettings& settings, const WordOrNumber& value) {
                    settings.bandwidth_auto = value.word == "auto";
                    settings.bandwidth = value.number;
                },
                [](const KernelRidgeSettings& s) {
                    return s.bandwidth ? json(*s.bandwidth) : json(s.bandwidth_auto ? "auto" : "median");
                })};
}

/// One embedding has one kernel.
std::string idle_beside(const Values& values, const std::string& option) {
    const bool one = embedding::embedding_names(values.of<embedding::EmbeddingSettings>()).size() == 1;
    return option == "kernel" && one ? "embedding" : "";
}

}  // namespace

Member kernel_ridge_member() {
    return {.name = "kernel-ridge",
            .help = "kernels of embeddings, with leave-one-out trust",
            .make = make_kernel_ridge,
            .options = own_options,
            .idle = idle_beside};
}

}  // namespace idistill::propagation
