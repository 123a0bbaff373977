// The network as a member of its family: its options.

#include "idistill/propagation/options.hpp"

#include "idistill/options/option_kinds.hpp"
#include "idistill/propagation/members.hpp"
#include "idistill/propagation/settings.hpp"

namespace idistill::propagation {

Member network_member();                                                   // listed in members.cpp
std::unique_ptr<Propagation> make_network(const options::Values& values);  // member.cpp

namespace {

using namespace options;

std::vector<Option> own_options() {
    constexpr std::int64_t most = std::int64_t{1} << 31;
    auto pairs = propagation_option("pairs", "N",
                                    "learn from N pairs of a labelled sample and a target, drawn by the seed; all are "
                                    "labelled; without it from all of them");
    pairs.words = {{"1000", "N"}};
    return {
        optional_option(pairs, &NetworkSettings::pairs, 1, most),
        number_option(propagation_option("network-width", "H", "units of a hidden layer"), &NetworkSettings::width, 1,
                      65536),
        number_option(propagation_option("network-depth", "D", "hidden layers; more than one predict more slowly"),
                      &NetworkSettings::depth, 1, 16),
        number_option(propagation_option("network-epochs", "N",
                                         "at most, each of 500 batches or more; it stops after 3 without a lower error "
                                         "on held-out samples"),
                      &NetworkSettings::epochs, 1, 10000),
        switch_option(propagation_option("network-symmetric", "on|off",
                                         "score(i, j) as the mean of both orders of the two samples"),
                      &NetworkSettings::symmetric),
        switch_option(propagation_option("network-residual", "on|off",
                                         "learn what the cosine of the two embeddings does not say"),
                      &NetworkSettings::residual),
        switch_option(propagation_option("network-standardise", "on|off",
                                         "embeddings of mean length 1, and labels less their mean over their "
                                         "deviation, before the network sees them; off: as they are, as published"),
                      &NetworkSettings::standardise)};
}

}  // namespace

Member network_member() {
    return {.name = "network",
            .help = "a small network of two samples' embeddings, learnt from pairs, judged by held-out samples",
            .make = make_network,
            .options = own_options};
}

}  // namespace idistill::propagation
